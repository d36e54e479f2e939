"""ICC profiles, written by hand: a wide gamut, inks and a grey, with what their colours are in sRGB."""

import itertools
import struct

import numpy as np

P3_TO_XYZ = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
SRGB_TO_XYZ = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
"""Of colours under D50, the white of profiles."""
D50 = np.array([0.9642, 1.0, 0.8249])
INKS = {
    "": (100, 0, 0), "C": (55, -37, -50), "M": (48, 74, -3), "Y": (89, -5, 93), "MY": (47, 68, 48),
    "CY": (50, -65, 27), "CM": (24, 22, -46), "CMY": (23, 0, 0),
}  # fmt: skip
"""Colours in Lab that inks give on paper; with black, nothing else is seen."""


def display_p3() -> bytes:
    """The gamut of phones: reds and greens that sRGB does not hold."""
    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    tags = {f"{name}XYZ": b"XYZ " + bytes(4) + _fixed(*P3_TO_XYZ[:, i]) for i, name in enumerate("rgb")}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags | {f"{name}TRC": curve for name in "rgb"})


def linear_grey() -> bytes:
    """Greys in proportion to their light."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {"kTRC": b"curv" + bytes(4) + struct.pack(">I", 0)})


def inks() -> bytes:
    """Four inks, by a table of two levels each."""
    nodes = itertools.product((0, 1), repeat=4)
    table = b"".join(_lab8("".join(n for n, on in zip("CMY", node[:3], strict=True) if on), node[3]) for node in nodes)
    ramp = bytes(range(256))
    identity = _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    lut = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity + ramp * 4 + table + ramp * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {"A2B0": lut})


def p3_in_srgb(colour: tuple[int, int, int]) -> np.ndarray:
    """A colour of Display P3 in sRGB, cut where sRGB ends."""
    encoded = np.array(colour) / 255
    light = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    return _srgb(P3_TO_XYZ @ light)


def ink_in_srgb(inked: str) -> np.ndarray:
    """What full inks look like."""
    lightness, a, b = INKS[inked]
    y = (lightness + 16) / 116
    ratios = np.array([y + a / 500, y, y - b / 200])
    return _srgb(D50 * np.where(ratios > 6 / 29, ratios**3, 3 * (6 / 29) ** 2 * (ratios - 4 / 29)))


def _srgb(xyz: np.ndarray) -> np.ndarray:
    light = np.clip(np.linalg.inv(SRGB_TO_XYZ) @ xyz, 0, 1)
    return 255 * np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def _lab8(inked: str, black: int) -> bytes:
    lightness, a, b = (0, 0, 0) if black else INKS[inked]
    return bytes((round(lightness * 2.55), 128 + a, 128 + b))


def _fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def _profile(device: bytes, colours: bytes, connection: bytes, tags: dict[str, bytes]) -> bytes:
    text = b"a profile for tests\0"
    described = {
        "desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78),
        "cprt": b"text" + bytes(4) + text,
        "wtpt": b"XYZ " + bytes(4) + _fixed(*D50),
        **tags,
    }
    place, table, body = 128 + 4 + 12 * len(described), b"", b""
    for name, data in described.items():
        table += name.encode() + struct.pack(">II", place + len(body), len(data))
        body += data.ljust(-(-len(data) // 4) * 4, b"\0")
    head = struct.pack(">I4sI", place + len(body), b"    ", 0x02400000) + device + colours + connection
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(*D50)
    return head.ljust(128, b"\0") + struct.pack(">I", len(described)) + table + body
