"""Pictures as rows of grey pixels."""

import io

import numpy as np

from effjax.errors import UserError

WEIGHTS = np.array([0.2989, 0.5870, 0.1140])  # of red, green and blue: ITU-R BT.601


def grey(picture: np.ndarray) -> bytes:
    """A picture `[height, width]` or `[height, width, channels]` of bytes as its grey pixels, row by row."""
    picture = np.asarray(picture)
    if picture.ndim == 3:
        picture = picture[..., 0] if picture.shape[-1] < 3 else np.round(picture[..., :3] @ WEIGHTS)
    return picture.astype(np.uint8).tobytes()


def read_picture(data: bytes, side: int) -> bytes:
    """The grey pixels of a picture file of `side` x `side`.

    Raises:
      UserError: no picture, or one of another size.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.size != (side, side):
                raise UserError(f"a picture of {image.size[0]} x {image.size[1]} pixels; {side} x {side} are needed")
            return grey(np.asarray(image.convert("RGB") if image.mode not in ("L", "RGB") else image))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"not a whole picture: {error}") from error
