"""The picture of a run: there, and of what was measured."""

import json

import numpy as np
from etils import epath

from effjax.training.curves import draw_curves


def test_curves_are_a_picture_with_something_in_it(tmp_path):
    import matplotlib.image

    rows = [{"step": step, "train/bits_per_byte": 8 / step} for step in range(1, 20)]
    rows[9] |= {"valid/bits_per_byte": 1.0}
    rows[-1] |= {"valid/bits_per_byte": 0.7, "test/bits_per_byte": 0.6}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = draw_curves(epath.Path(tmp_path), "bits_per_byte")
    image = matplotlib.image.imread(path)
    assert image.shape[:2] == (540, 960)
    for colour in ((0x1F, 0x77, 0xB4), (0xD6, 0x27, 0x28), (0x9A, 0xA5, 0xB1)):
        assert np.isclose(image[..., :3], np.array(colour) / 255, atol=0.02).all(-1).sum() > 20


def test_a_run_stopped_before_its_first_row_has_an_empty_picture(tmp_path):
    assert draw_curves(epath.Path(tmp_path), "bits_per_byte").exists()
