"""The rules by which a mixer lets positions attend to each other: one panel for all heads and layers that agree."""

import math
from dataclasses import dataclass, field

import numpy as np

from effjax.layers import LSRA, FullAttention
from effjax.pictures.figure import PALETTE, Picture, add_legend, draw_pairs, in_words, new_figure
from effjax.pictures.sights import Sight, sight_of
from effjax.pictures.subject import Subject

MOST_PANELS, COLUMNS = 24, 3
WIDTH = 4.2  # of a panel, in inches


@dataclass
class Panel:
    """Heads and layers in which the same positions see each other."""

    sight: Sight
    pairs: np.ndarray
    heads: tuple[int, ...]
    layers: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def title(self, n_heads: int, n_layers: int) -> str:
        """Which they are, their settings, and the most keys that a query sees."""
        layers = "all layers" if len(self.layers) == n_layers else in_words("layer", self.layers)
        heads = "all heads" if len(self.heads) == n_heads else in_words("head", [head + 1 for head in self.heads])
        notes = list(dict.fromkeys(filter(None, self.notes)))
        note = notes[0] if len(notes) == 1 else f"{notes[0]} … {notes[-1]}" if notes else ""
        return "\n".join(filter(None, [f"{layers}, {heads}", note]))


def draw_rules(subject: Subject, name: str) -> list[Picture]:
    """Who attends to whom in the mixers of one name, where that is a matter of positions."""
    panels = panels_of(subject, name)
    if not panels:
        return []
    names = list(dict.fromkeys(part for panel in panels for part, _ in panel.sight.parts))
    colours = dict(zip(names, PALETTE * math.ceil(len(names) / len(PALETTE))))
    count = len(panels)
    if count > MOST_PANELS:
        panels = [panels[round(i * (count - 1) / (MOST_PANELS - 1))] for i in range(MOST_PANELS)]
    columns = min(len(panels), COLUMNS)
    rows = math.ceil(len(panels) / columns)
    shown = f", {len(panels)} of {count} different patterns" if len(panels) < count else ""
    sights = [panel.sight for panel in panels]
    where = f"{subject.length} positions"
    if any(sight.keys[0] < 0 for sight in sights):
        where = "one piece of a stream, and the memory before it"
    title = f"{name}: who attends to whom\n{where}{shown}"
    # Panels are as high as their queries ask for, beside their keys.
    height = WIDTH * max(np.ptp(sight.queries) / np.ptp(sight.keys) for sight in sights) + 0.6
    figure = new_figure(WIDTH * columns + 0.6, height * rows + 1.15, title)
    n_layers = len(subject.names) * subject.repeats
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        own = [colours[part] for part, _ in panel.sight.parts]
        draw_pairs(axes, panel.pairs, own, panel.sight.queries, panel.sight.keys)
        mixer = subject.mixers[(panel.layers[0] - 1) % len(subject.names)]
        axes.set_title(panel.title(mixer.n_heads, n_layers), fontsize=8.5)
        if i % columns == 0:
            axes.set_ylabel("query position", fontsize=8.5)
        if i + columns >= len(panels):
            axes.set_xlabel("key position", fontsize=8.5)
    used = [part for part in names if any(_shows(panel, part) for panel in panels)]
    add_legend(figure, used, [colours[part] for part in used], ncols=min(len(used), 2 if columns == 1 else 4))
    return [Picture(f"{name}_pattern", figure, _remark(subject, name, panels))]


def panels_of(subject: Subject, name: str) -> list[Panel]:
    """One panel for all heads and layers in which the same positions see each other; none without such rules."""
    panels: dict[tuple, Panel] = {}
    for block in subject.blocks(name):
        mixer, heads = subject.mixers[block], {}
        for head in range(mixer.n_heads):
            sight = sight_of(mixer, head, length=subject.length, piece=subject.task.config.data.length)
            if sight is None:
                return []
            pairs = sight.pairs(head)
            alike = tuple(part for part, _ in sight.parts), pairs.shape, pairs.tobytes()
            heads.setdefault(alike, (sight, pairs, []))[2].append(head)
        for alike, (sight, pairs, own) in heads.items():
            panel = panels.setdefault((alike, tuple(own)), Panel(sight, pairs, tuple(own)))
            panel.layers.extend(subject.layers(block))
            panel.notes.append(sight.note)
    return list(panels.values())


def _shows(panel, part):
    names = [name for name, _ in panel.sight.parts]
    return part in names and bool((panel.pairs == names.index(part) + 1).any())


def _remark(subject, name, panels):
    """A hint where the positions looked at are too few to see more than the triangle of the past."""
    if isinstance(subject.mixers[subject.blocks(name)[0]], FullAttention | LSRA):
        return ""
    past = np.tri(subject.length, dtype=bool)
    if any(panel.pairs.shape != past.shape or (panel.pairs[past] == 0).any() for panel in panels):
        return ""
    seen = "all" if all(panel.pairs.all() for panel in panels) else "all before it"
    return f"{name}: among {subject.length} positions every one sees {seen}; a longer --length may show more"
