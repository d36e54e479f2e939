"""The files of a model, checked before any library reads them: registry, engines and trainer all begin here.

Whoever made the files is not trusted, and libraries are trusting: they open whatever file a manifest names, follow an
`adapter_config.json` to another model, run pickles, and build as many layers as a `config.json` claims. So this module
accepts only files

- whose manifests name plain files of the same folder, which exist;
- that are either a whole model or a LoRA, and in no part of a model something to be loaded on top;
- that are no pickles;
- whose configurations have sizes that a model can have.

It looks at names, sizes and JSON alone. Whether the weights fit the configuration is for `weights_check` to say, and
what the files cost to use for `first_look`.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from omnialign.errors import InvalidArgument
from omnialign.folders import list_files
from omnialign.modeling.lora import CONFIG as ADAPTER_CONFIG
from omnialign.modeling.safetensors_header import HeaderInvalid, TensorInfo, read_header

CONFIG, CODECS, WEIGHTS = "config.json", "codecs.json", ".safetensors"
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
MAX_JSON_BYTES = 32 << 20
PROCESSOR_CONFIGS = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
PIXELS = ("shortest_edge", "longest_edge", "min_pixels", "max_pixels")
"""Sizes of pictures; some families give edges in pixels of the whole picture."""
MAX_SIDE, MAX_PIXELS = 1 << 14, 1 << 28
MAX_DEPTH, MAX_COUNT, MAX_NUMBER = 4096, 1 << 16, 1 << 53

_INDEX = re.compile(r"\.index(\.[^/]+)?\.json$")
_SHARD = re.compile(r"(^|/)shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors$")
_DEPTH = re.compile(r"(layers?|depths?|blocks?|stages?)$")
_COUNT = re.compile(r"(experts?|heads?|labels|quantizers|codebooks)$")
"""Keys of a configuration for which a library builds as many things as the number says."""


class ModelSource(Protocol):
    """The files of a model, wherever they are. All methods block."""

    name: str
    """The caller's name for the location, for error messages."""

    def sizes(self) -> Mapping[str, int]:
        """Bytes of each file by path, in order of path."""
        ...

    def read(self, path: str, *, start: int, length: int) -> bytes:
        """Bytes of a file."""
        ...


class FolderFiles:
    """The files of a folder. Error messages call it `name`."""

    def __init__(self, folder: Path, *, name: str = "") -> None:
        self.name, self.folder = name or str(folder), folder

    def sizes(self) -> Mapping[str, int]:
        """See ModelSource."""
        paths = list_files(self.folder)
        return {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in paths}

    def read(self, path: str, *, start: int, length: int) -> bytes:
        """See ModelSource."""
        with (self.folder / path).open("rb") as file:
            file.seek(start)
            return file.read(length)


def check_files(files: ModelSource) -> None:
    """Checks the files of a model or a LoRA. Weights may be absent, as where only the settings were fetched.

    Raises InvalidArgument MODEL_HAS_PICKLE, MODEL_HAS_ADAPTER, MODEL_CONFIG_INVALID, MODEL_MANIFEST_INVALID.
    """
    sizes = files.sizes()
    _check_pickles(files.name, sizes)
    _check_adapters(files.name, sizes)
    for path in sizes:
        name = PurePosixPath(path).name
        if name == CONFIG:
            _check_config(files, sizes, path)
        elif name in PROCESSOR_CONFIGS:
            _check_processor(files, path)
        elif _INDEX.search(name):
            _check_index(files, sizes, path)
    if CODECS in sizes:
        _check_codec_folders(files, sizes)


def read_object(files: ModelSource, path: str, *, reason: str) -> dict[str, Any]:
    """The JSON object in a file. Raises InvalidArgument of this reason."""
    text = files.read(path, start=0, length=MAX_JSON_BYTES + 1)
    if len(text) > MAX_JSON_BYTES:
        raise _refusal(files.name, f"{path} of {files.name} is larger than {MAX_JSON_BYTES >> 20} MiB.", reason)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refusal(files.name, f"{path} of {files.name} is not JSON: {error}.", reason) from error
    if not isinstance(value, dict):
        raise _refusal(files.name, f"{path} of {files.name} is not an object.", reason)
    return value


def weight_paths(files: ModelSource) -> list[str]:
    """The files from which `transformers` loads a model that `check_files` has accepted, by its own rules."""
    sizes = files.sizes()
    named = read_object(files, CONFIG, reason="MODEL_CONFIG_INVALID").get("transformers_weights")
    whole, index = str(named or f"model{WEIGHTS}"), f"model{WEIGHTS}.index.json"
    if whole in sizes and whole.endswith(WEIGHTS):
        return [whole]
    manifest = whole if whole in sizes else index
    if manifest not in sizes:
        return [path for path in sizes if path.endswith(WEIGHTS) and "/" not in path]
    weight_map = read_object(files, manifest, reason="MODEL_MANIFEST_INVALID")["weight_map"]
    return sorted(set(map(str, weight_map.values())))


def tensors(files: ModelSource, paths: Sequence[str]) -> Iterator[tuple[str, TensorInfo]]:
    """The tensors of safetensors files with their names. Raises InvalidArgument MODEL_WEIGHTS_INVALID."""
    sizes = files.sizes()
    for path in paths:

        def read(start: int, length: int, path: str = path) -> bytes:
            return files.read(path, start=start, length=length)

        try:
            yield from read_header(read, size_bytes=sizes[path]).items()
        except HeaderInvalid as error:
            message = f"{path} of {files.name} {error}; copy it again, or save it again with safetensors."
            raise _refusal(path, message, "MODEL_WEIGHTS_INVALID") from error


def is_plain_name(name: object) -> bool:
    """Whether a name in a manifest is that of a file in the manifest's own folder, and of nothing else."""
    return isinstance(name, str) and is_inside(name) and PurePosixPath(name).parts == (name,)


def _check_pickles(model: str, sizes: Mapping[str, int]) -> None:
    pickles = [path for path in sizes if PurePosixPath(path).suffix.lower() in PICKLES]
    if pickles:
        names = ", ".join(pickles[:5])
        message = f"{model} contains {names}, and pickles can run code when loaded; convert the weights to safetensors."
        raise _refusal(model, message, "MODEL_HAS_PICKLE")
    if shards := [path for path in sizes if _SHARD.search(path)]:
        message = f"{model} contains {shards[0]}, a shard of a distributed checkpoint; save the model in whole tensors."
        raise _refusal(model, message, "MODEL_MANIFEST_INVALID")


def _check_adapters(model: str, sizes: Mapping[str, int]) -> None:
    """Refuses adapters within a model: `transformers` would load them on top, or their base instead of the model."""
    adapters = [path for path in sizes if PurePosixPath(path).name == ADAPTER_CONFIG]
    if CONFIG not in sizes and ADAPTER_CONFIG in sizes:
        return  # a LoRA, of which only the files at the top are read
    if adapters:
        message = (
            f"{model} has {adapters[0]} beside or below a whole model, so it is unclear which of the two it is; remove "
            f"{CONFIG} to use the LoRA, or the adapter's files to use the model."
        )
        raise _refusal(model, message, "MODEL_HAS_ADAPTER")


def _check_config(files: ModelSource, sizes: Mapping[str, int], path: str) -> None:
    config = read_object(files, path, reason="MODEL_CONFIG_INVALID")
    for key, value in _numbers(config):
        limit = MAX_DEPTH if _DEPTH.search(key) else MAX_COUNT if _COUNT.search(key) else MAX_NUMBER
        if abs(value) > limit:
            message = f"{path} of {files.name} sets {key} to {str(value)[:24]}, and no model has more than {limit}."
            raise _refusal(files.name, message, "MODEL_CONFIG_INVALID")
    if (named := config.get("transformers_weights")) is not None:
        _check_named(files, sizes, path, [named])


def _check_processor(files: ModelSource, path: str) -> None:
    """Refuses a processor that would scale every picture to more pixels than a machine holds."""
    for key, value in _numbers(read_object(files, path, reason="MODEL_CONFIG_INVALID")):
        limit = MAX_SIDE if key in ("height", "width") else MAX_PIXELS if key in PIXELS else None
        if limit is not None and value > limit:
            message = f"{path} of {files.name} sets {key} to {str(value)[:24]}, and {limit} is the most that is taken."
            raise _refusal(files.name, message, "MODEL_CONFIG_INVALID")


def _numbers(value: object) -> Iterator[tuple[str, int]]:
    """All integers of a JSON value, with the key that they are under."""
    waiting: list[tuple[str, object]] = [("", value)]
    while waiting:
        key, found = waiting.pop()
        if isinstance(found, dict):
            waiting += [(str(name), entry) for name, entry in found.items()]
        elif isinstance(found, list):
            waiting += [(key, entry) for entry in found]
        elif type(found) is int:
            yield key, found


def _check_index(files: ModelSource, sizes: Mapping[str, int], path: str) -> None:
    index = read_object(files, path, reason="MODEL_MANIFEST_INVALID")
    named = index.get("weight_map")
    if not isinstance(named, dict):
        raise _manifest_invalid(files.name, path, "has no weight_map that says which file has which tensor")
    _check_named(files, sizes, path, list(dict.fromkeys(map(_hashable, named.values()))))


def _check_named(files: ModelSource, sizes: Mapping[str, int], path: str, named: Sequence[object]) -> None:
    """Refuses names in a manifest that are not plain, and names of weights that are not there."""
    folder = PurePosixPath(path).parent
    if wrong := [name for name in named if not is_plain_name(name)]:
        raise _manifest_invalid(files.name, path, f"names {wrong[0]!r:.200}, which is not a file of its own folder")
    if not any(PurePosixPath(other).parent == folder and other.endswith(WEIGHTS) for other in sizes):
        return  # settings without weights, or weights in a format that is not read
    weights = [str(name) for name in named if str(name).endswith(WEIGHTS)]
    if absent := [name for name in weights if (folder / name).as_posix() not in sizes]:
        raise _manifest_invalid(files.name, path, f"names {absent[0]!r:.200}, which is not there")


def _check_codec_folders(files: ModelSource, sizes: Mapping[str, int]) -> None:
    entries = read_object(files, CODECS, reason="CODECS_INVALID").get("codecs")
    for entry in entries if isinstance(entries, list) else ():
        options = entry.get("options") if isinstance(entry, dict) else None
        folder = options.get("folder") if isinstance(options, dict) else None
        if folder is not None and not (isinstance(folder, str) and is_inside(folder)):
            message = f"{CODECS} of {files.name} names {folder!r:.200}, which is not a folder of the model."
            raise _refusal(CODECS, message, "CODEC_OPTIONS_INVALID")


def is_inside(path: str) -> bool:
    """Whether a relative path stays within the folder that it starts from."""
    parts = PurePosixPath(path).parts
    return bool(parts) and path.isprintable() and not path.startswith("/") and not {"\\", ".."} & {*path, *parts}


def _hashable(value: object) -> object:
    return value if isinstance(value, str) else repr(value)[:200] + "?/"  # never a plain name


def _manifest_invalid(model: str, path: str, why: str) -> InvalidArgument:
    message = f"{path} of {model} {why}; save the model again with save_pretrained."
    return _refusal(path, message, "MODEL_MANIFEST_INVALID")


def _refusal(path: str, message: str, reason: str) -> InvalidArgument:
    return InvalidArgument(message, reason=reason, metadata={"path": path})
