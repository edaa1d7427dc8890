"""Pictures of high dynamic range (Rec. ITU-R BT.2100) as those of standard range, which the
detector and the network know.
"""

import functools

import numpy as np
import PIL.Image
import PIL.ImageFilter

PQ, HLG = 16, 18  # transfer characteristics, as numbered in ITU-T H.273
WHITE = 203  # cd/m2: what is as bright as white paper (Report ITU-R BT.2408)
KNEE = 0.75  # of WHITE: what is brighter is compressed
SIZE = 65  # of the table of colours, in each of red, green and blue

LUMINANCE = np.array([0.2627, 0.6780, 0.0593])  # of linear RGB in BT.2020
TO_BT709 = np.array(  # from linear RGB in BT.2020 (Report ITU-R BT.2407)
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)


def light_of(signal, transfer):
    """Light in cd/m2, (..., 3), of the signal, RGB from 0 to 1: of PQ by its EOTF (BT.2100,
    table 4), of HLG by the inverse of its OETF and its OOTF (table 5) on a display of 1,000 cd/m2,
    whose gamma is 1.2."""
    if transfer == PQ:
        m1, m2 = 2610 / 16384, 2523 / 4096 * 128
        c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
        power = signal ** (1 / m2)
        return 10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return 1000 * scene * (scene @ LUMINANCE)[..., None] ** 0.2


def standard(light):
    """sRGB (IEC 61966-2-1), 0 to 1, of light in cd/m2 in BT.2020: up to KNEE as it is, above it
    compressed, all three colours alike, so that it nears 1."""
    light = light / WHITE @ TO_BT709.T
    peak = light.max(-1, keepdims=True).clip(1e-9)
    above = KNEE + (1 - KNEE) * (1 - np.exp(-(peak - KNEE) / (1 - KNEE)))
    light = (light * np.where(peak > KNEE, above, peak) / peak).clip(0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@functools.cache
def table(transfer):
    """Pillow's filter of standard() colours."""
    steps = np.linspace(0, 1, SIZE)
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")  # red changes first
    colours = standard(light_of(np.stack([red, green, blue], -1), transfer))
    return PIL.ImageFilter.Color3DLUT(SIZE, colours.ravel().tolist())


def as_standard(pixels, transfer):
    """uint8 (height, width, 3) of pixels with this ``transfer`` characteristic in BT.2020; others
    than PQ and HLG stay as they are."""
    if transfer not in (PQ, HLG):
        return pixels
    return np.asarray(PIL.Image.fromarray(pixels).filter(table(transfer)))
