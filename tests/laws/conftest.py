"""Runs every law over every family to which it applies."""

import itertools

import pytest

from tests.laws.families import FAMILIES


def pytest_generate_tests(metafunc):
    """Parametrises `family` and, beside it, `implementation`, `causal` (bool) and `rules` (an entry of the module's
    RULES), over the combinations that the family has; `pytest.mark.needs("segments", …)` names what a test needs."""
    if "family" not in metafunc.fixturenames:
        return
    needs = [need for marker in metafunc.definition.iter_markers("needs") for need in marker.args]
    choices = {
        "implementation": lambda family: family.implementations,
        "causal": lambda family: [causal for causal in (True, False) if has(family, {"causal": causal})],
        "rules": lambda family: [rules for rules in metafunc.module.RULES.values() if has(family, rules)],
    }
    names = [name for name in choices if name in metafunc.fixturenames]
    cases, ids = [], []
    for family in FAMILIES:
        if all(getattr(family, need) for need in needs):
            for case in itertools.product(*(choices[name](family) for name in names)):
                slow = "rules" in names and not metafunc.module.hardest(family, case[names.index("rules")])
                other_form = "implementation" in names and case[names.index("implementation")] == "batched"
                other_side = "causal" in names and family.causal and not case[names.index("causal")]
                slow |= other_side
                slow |= (family.sibling is not None or other_form) and not metafunc.module.__name__.endswith("1_oracle")
                group = pytest.mark.xdist_group(family.name)  # one process compiles what the laws have in common
                cases.append(pytest.param(family, *case, marks=[group] + [pytest.mark.slow] * slow))
                ids.append("-".join([family.name, *(label(metafunc, *named) for named in zip(names, case))]))
    metafunc.parametrize(["family", *names], cases, ids=ids)


def has(family, rules) -> bool:
    """Whether a family knows such rules."""
    side = family.causal if rules["causal"] else family.both_sides
    return side and (family.segments or "segment_ids" not in rules)


def label(metafunc, name, value) -> str:
    if name == "causal":
        return "causal" if value else "both_sides"
    if name == "rules":
        return next(key for key, rules in metafunc.module.RULES.items() if rules is value)
    return str(value or "one_form")
