"""Compiles protos/ into omnialign/v1 (stubs and type stubs), or checks that the committed stubs are current.

Everything starts from one descriptor image, built by the protoc of grpcio-tools: the stubs come from it, and buf lints
it (buf cannot read the sources, because it would have to fetch their imports over the network).

The rules of protovalidate need `buf/validate/validate.proto`, which no wheel ships as source. Its descriptor is taken
from the protovalidate wheel, so the rules that we compile against are those that the validator enforces. The wheel
keeps it in a private module: another reason why constraints.txt pins protovalidate to one exact version.
"""

import argparse
import filecmp
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf import any_pb2, descriptor_pb2, duration_pb2, empty_pb2, field_mask_pb2, timestamp_pb2
from google.rpc import status_pb2

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GENERATED = (Path("omnialign/v1"), Path("buf/validate"))
VALIDATE = "buf/validate/validate.proto"
INIT = '"""Generated from protos/ by `make generate-protos`. Do not edit."""\n'


def protoc(*arguments: str) -> None:
    """Runs the protoc of grpcio-tools; its plugins are found beside the running interpreter."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    command = [sys.executable, "-m", "grpc_tools.protoc", *arguments]
    subprocess.run(command, check=True, cwd=PROTOS, env={**os.environ, "PATH": path})


def sources() -> list[str]:
    """Our proto files, relative to protos/."""
    return sorted(str(p.relative_to(PROTOS)) for p in (PROTOS / "omnialign/v1").glob("*.proto"))


def imports() -> descriptor_pb2.FileDescriptorSet:
    """Everything that our files import, each file after its own imports."""
    from protovalidate._gen.buf.validate import validate_pb

    files = descriptor_pb2.FileDescriptorSet()
    for module in (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2, any_pb2, empty_pb2, status_pb2):
        module.DESCRIPTOR.CopyToProto(files.file.add())
    files.file.add().ParseFromString(validate_pb.desc().proto.to_binary())
    return files


def write_image(path: Path) -> None:
    """Writes one descriptor image of all sources and imports; comments are kept for buf's comment rules."""
    with tempfile.TemporaryDirectory() as scratch:
        known = Path(scratch, "imports.binpb")
        known.write_bytes(imports().SerializeToString())
        protoc(
            f"--descriptor_set_in={known}", "--proto_path=.", "--include_imports", "--include_source_info",
            f"--descriptor_set_out={path}", *sources(),
        )  # fmt: skip


def write_stubs(target: Path) -> None:
    """Writes the stubs below `target`, in the shape of protos/."""
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch, "image.binpb")
        write_image(image)
        messages = (f"--python_out={target}", f"--mypy_out=quiet:{target}")
        services = (f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}")
        protoc(f"--descriptor_set_in={image}", *messages, *services, *sources())
        protoc(f"--descriptor_set_in={image}", *messages, VALIDATE)
    for folder in GENERATED:
        (target / folder / "__init__.py").write_text(INIT)


def differences(fresh: Path) -> list[Path]:
    """Files, relative to the root, that differ between the committed stubs and freshly made ones."""
    found: list[Path] = []
    for folder in GENERATED:
        existing = [base / folder for base in (ROOT, fresh) if (base / folder).is_dir()]
        names = {p.name for base in existing for p in base.iterdir() if p.is_file()}
        _, differing, unreadable = filecmp.cmpfiles(ROOT / folder, fresh / folder, names, shallow=False)
        found += [folder / name for name in (*differing, *unreadable)]
    return sorted(found)


def install(fresh: Path) -> None:
    """Brings the committed stubs up to date, file by file, so that a program that imports them never finds a gap."""
    for name in differences(fresh):
        source, target = fresh / name, ROOT / name
        if not source.exists():
            target.unlink()
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = target.with_suffix(f"{target.suffix}.new")
        staged.write_bytes(source.read_bytes())
        staged.replace(target)


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail when the committed stubs are not current")
    parser.add_argument("--image", type=Path, help="write a descriptor image for buf here, and nothing else")
    return parser.parse_args()


def main() -> None:
    """Entry point of `make generate-protos`, and of two steps of `make check`."""
    arguments = parse_arguments()
    if arguments.image:
        return write_image(arguments.image.resolve())
    with tempfile.TemporaryDirectory() as scratch:
        write_stubs(Path(scratch))
        if not arguments.check:
            return install(Path(scratch))
        if stale := differences(Path(scratch)):
            sys.exit(f"generated code is out of date, run `make generate-protos`: {', '.join(map(str, stale))}")
    return None


if __name__ == "__main__":
    main()
