"""One node without a cluster: runs the pods of a rendered chart as containers, each in a network namespace of its own.

What it keeps of Kubernetes: the pods' users, read-only roots, capabilities, volumes with their owners and modes,
environment from Secrets, addresses, names of Services and of pods. What it lacks: scheduling, probes that restart,
limits, network policies and admission. Needs root, runc, ip and buildah with the images built.
"""

import base64
import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.run_container import _SYSTEM_MOUNTS, image_of

Object = dict[str, Any]

BRIDGE, HOST = "omnialign0", "10.88.77.1"
FIRST_POD = 10


def ip(*words: str) -> None:
    """One command of iproute2."""
    subprocess.run(("ip", *words), check=True, capture_output=True)


@dataclass
class Container:
    """A pod that runs."""

    name: str
    address: str
    process: "subprocess.Popen[bytes]"
    log: Path
    folder: Path

    def text(self) -> str:
        """What it has written."""
        return self.log.read_text(errors="replace")


@dataclass
class Node:
    """The node. `objects` are the manifests that pods refer to, by kind and name."""

    folder: Path
    engine: Sequence[str]
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    running: dict[str, Container] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    _images: dict[str, tuple[str, Object]] = field(default_factory=dict)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _count: int = FIRST_POD

    def open(self) -> None:
        """Makes the network."""
        ip("link", "add", BRIDGE, "type", "bridge")
        self._stack.callback(ip, "link", "del", BRIDGE)
        ip("addr", "add", f"{HOST}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")

    def close(self) -> None:
        """Kills what runs and removes the network."""
        for container in self.running.values():
            subprocess.run(("runc", "kill", container.name, "KILL"), check=False, capture_output=True)
            container.process.wait(30)
        self._stack.close()

    def new_address(self) -> str:
        """The next address of a pod."""
        self._count += 1
        return f"10.88.77.{self._count}"

    def write_hosts(self) -> None:
        """Tells every pod the names known now."""
        text = "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in self.names.items())
        (self.folder / "hosts").write_text(text)

    def run(self, name: str, pod: Object, *, address: str, extra: Mapping[str, str] | None = None) -> Container:
        """Starts a pod's only container."""
        spec, container = pod["spec"], pod["spec"]["containers"][0]
        folder = self.folder / name
        folder.mkdir(parents=True)
        self._plug_in(name, address)
        root, config = self._image(container["image"])
        security = {**spec.get("securityContext", {}), **container.get("securityContext", {})}
        assert security["runAsNonRoot"] and security["readOnlyRootFilesystem"]
        user = security.get("runAsUser", int(config["User"].partition(":")[0]))
        environment = self._environment(container, pod_name=name) | dict(extra or {})
        entry = container.get("command") or config["Entrypoint"]
        arguments = container.get("args") or ([] if container.get("command") else config.get("Cmd") or [])
        mounts = [*self._volumes(spec, container, folder, user=user), self._bind(self.folder / "hosts", "/etc/hosts")]
        (folder / "termination-log").touch()
        (folder / "termination-log").chmod(0o666)
        mounts.append(self._bind(folder / "termination-log", "/dev/termination-log"))
        taken = {mount["destination"] for mount in mounts}
        specification = {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": user, "gid": user, "additionalGids": [security.get("fsGroup", user)]},
                "args": [*entry, *arguments],
                "env": [*config["Env"], *(f"{key}={value}" for key, value in environment.items())],
                "cwd": config.get("WorkingDir") or "/",
                "noNewPrivileges": True,
                "capabilities": {},
            },
            "root": {"path": root, "readonly": True},
            "hostname": name,
            "mounts": [*(mount for mount in _SYSTEM_MOUNTS if mount["destination"] not in taken), *mounts],
            "linux": {
                "namespaces": [
                    *({"type": kind} for kind in ("pid", "ipc", "uts", "mount")),
                    {"type": "network", "path": f"/run/netns/{name}"},
                ]
            },
        }
        (folder / "config.json").write_text(json.dumps(specification))
        log = folder / "log.txt"
        with log.open("wb") as output:
            process = subprocess.Popen(("runc", "run", "--bundle", str(folder), name), stdout=output, stderr=output)
        started = Container(name, address, process, log, folder)
        self.running[name] = started
        return started

    def _plug_in(self, name: str, address: str) -> None:
        ip("netns", "add", name)
        self._stack.callback(ip, "netns", "del", name)
        outside = f"oa{address.rpartition('.')[2]}"
        ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("link", "set", outside, "master", BRIDGE, "up")
        for words in (
            ("addr", "add", f"{address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            ip("-n", name, *words)

    def _image(self, reference: str) -> tuple[str, Object]:
        if reference not in self._images:
            image = self._stack.enter_context(image_of(self.engine, f"localhost/{reference}"))
            self._images[reference] = (image._root, image.config)
        return self._images[reference]

    def _environment(self, container: Object, *, pod_name: str) -> dict[str, str]:
        found = {}
        for item in container.get("env") or ():
            source = item.get("valueFrom") or {}
            if "secretKeyRef" in source:
                found[item["name"]] = self._secret(source["secretKeyRef"]["name"])[
                    source["secretKeyRef"]["key"]
                ].decode()
            elif "fieldRef" in source:
                assert source["fieldRef"]["fieldPath"] == "metadata.name"
                found[item["name"]] = pod_name
            elif "resourceFieldRef" in source:
                found[item["name"]] = "2"
            else:
                found[item["name"]] = str(item.get("value", ""))
        return found

    def _secret(self, name: str) -> dict[str, bytes]:
        secret = self.objects["Secret", name]
        data = {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}
        return data | {key: value.encode() for key, value in (secret.get("stringData") or {}).items()}

    def _volumes(self, spec: Object, container: Object, folder: Path, *, user: int) -> Iterator[Object]:
        volumes = {volume["name"]: volume for volume in spec.get("volumes") or ()}
        for mount in container.get("volumeMounts") or ():
            volume, place = volumes[mount["name"]], folder / "volumes" / mount["name"]
            place.mkdir(parents=True, exist_ok=True)
            files: dict[str, bytes] = {}
            if "secret" in volume:
                files = self._chosen(self._secret(volume["secret"]["secretName"]), volume["secret"])
            elif "configMap" in volume:
                data = self.objects["ConfigMap", volume["configMap"]["name"]]["data"]
                files = self._chosen({key: value.encode() for key, value in data.items()}, volume["configMap"])
            else:
                assert "emptyDir" in volume, volume
            mode = (volume.get("secret") or volume.get("configMap") or {}).get("defaultMode", 0o644)
            for name, content in files.items():
                (place / name).write_bytes(content)
                os.chown(place / name, 0, user)  # what fsGroup does
                (place / name).chmod(mode)
            os.chown(place, 0, user)
            place.chmod(0o2777 if "emptyDir" in volume else 0o755)
            yield self._bind(place, mount["mountPath"], writable=not mount.get("readOnly"))

    @staticmethod
    def _chosen(files: dict[str, bytes], source: Object) -> dict[str, bytes]:
        items = source.get("items")
        return {item["path"]: files[item["key"]] for item in items} if items else files

    @staticmethod
    def _bind(source: Path, destination: str, *, writable: bool = True) -> Object:
        return {
            "destination": destination,
            "type": "bind",
            "source": str(source),
            "options": ["rbind", "rw" if writable else "ro"],
        }
