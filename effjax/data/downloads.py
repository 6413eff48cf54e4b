"""Official files by their address: from a disk, or downloaded once and kept."""

import os
import urllib.error
import urllib.request

from etils import epath

from effjax.errors import UserError

SECONDS = 10  # without an answer, there is no network


def official_file(url: str, *, name: str, path: str | None = None, cache_dir: str | None = None) -> epath.Path:
    """Where an official file lies.

    Args:
      url: its address.
      name: of the data, for errors and as the name of the folder that downloads are kept in.
      path: the file itself, where it is not to be downloaded.
      cache_dir: what the folder is in; None: `TFDS_DATA_DIR` or ~/tensorflow_datasets, under downloads.

    Raises:
      UserError: there is no such file, or it cannot be downloaded; both ways to it are named.
    """
    if path:
        file = epath.Path(path).expanduser()
        if not file.exists():
            raise UserError(f"{file}: there is no such file")
        return file
    folder = epath.Path(cache_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    file = folder / "downloads" / name / url.rsplit("/", 1)[1]
    if file.exists():
        return file
    request = urllib.request.Request(url, headers={"User-Agent": "effjax"})
    unfinished = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            file.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as out:
                while piece := response.read(1 << 20):
                    out.write(piece)
    except OSError as error:  # URLError and a connection that breaks off are of this type
        if unfinished.exists():
            unfinished.unlink()
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{name} is not in {file.parent} and could not be downloaded ({reason}): either run once where {url} can "
            f"be reached, or fetch that file elsewhere and give --config.data.path=/path/to/{file.name}"
        ) from error
    unfinished.replace(file)
    return file
