"""Where published weights lie on this computer; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


def pretrained_folder(source: str | Path, needed: Sequence[str | tuple[str, ...]], what: str) -> Path:
    """Finds the files of a model in a folder, or those of a Hugging Face repository in the hub's cache.

    Args:
        source: a folder, or a repository such as ``"openai/clip-vit-large-patch14"``.
        needed: files that must be there, as patterns relative to the folder; of a tuple any one.
        what: the model, for messages.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: there is no such folder or cached repository, or a file in it is missing; the message names
            it and says how to get it.
    """
    from huggingface_hub import constants, snapshot_download

    advice = f"get it once by: hf download {source}"
    if Path(source).is_dir():
        folder, advice = Path(source), "copy all files of the published model there"
    else:
        try:
            folder = Path(snapshot_download(str(source), local_files_only=True))
        except (OSError, ValueError) as error:  # not in the cache, or no name of a repository
            raise FileNotFoundError(
                f"{what} {str(source)!r} is neither a folder nor in the hub's cache, {constants.HF_HUB_CACHE}; "
                f"{advice}, or give a folder"
            ) from error
    for patterns in needed:
        patterns = (patterns,) if isinstance(patterns, str) else patterns
        if not any(next(folder.glob(pattern), None) for pattern in patterns):
            raise FileNotFoundError(f"{what} {folder} has no {' or '.join(patterns)}; {advice}")
    return folder


def load_whole(model_class: Any, folder: Path, subfolder: str = "", **options: Any) -> Any:
    """Loads a model of transformers or diffusers from a folder, and takes no random weight for a missing one.

    Args:
        model_class: with ``from_pretrained``.
        folder: as :func:`pretrained_folder` gives it.
        subfolder: of the part, in that folder.
        options: of ``from_pretrained``.

    Raises:
        FileNotFoundError: there are no such weights, such as a variant that was not downloaded.
        ValueError: the weights are damaged, or those of another model.
    """
    place = folder / subfolder
    try:
        model, report = model_class.from_pretrained(folder, subfolder=subfolder, output_loading_info=True, **options)
    except OSError as error:
        raise FileNotFoundError(f"weights of {model_class.__name__} in {place} cannot be loaded: {error}") from error
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise ValueError(f"weights in {place} must be those of its {model_class.__name__}: {error}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"weights in {place} must be whole, but {len(missing)} are missing, the first {missing[0]}")
    return model
