"""The drawing surface: a picture at twice the final resolution, with a sun."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from .textures import Colour, Dice, canopy, noise

__all__ = ["SUPERSAMPLING", "Box", "Canvas", "Frame", "Light", "Point", "Polygon"]

Point = tuple[float, float]
Polygon = Sequence[Point]
Box = tuple[int, int, int, int]

SUPERSAMPLING = 2


@dataclass(frozen=True, slots=True)
class Light:
    """Where the sun stands.

    Attributes:
        shadow: Unit direction (col, row) that shadows fall to.
        length: Their length per metre of height.
        darkness: How much light they take away, in ``[0, 1]``.
    """

    shadow: Point
    length: float
    darkness: float


@dataclass(frozen=True, slots=True)
class Frame:
    """Local axes in metres on a canvas: origin in canvas pixels, rotation, canvas pixels per metre."""

    col: float
    row: float
    cos: float
    sin: float
    ppm: float

    def at(self, u: float, v: float) -> Point:
        """Canvas position of the local point ``(u, v)`` [m]."""
        return (
            self.col + (u * self.cos - v * self.sin) * self.ppm,
            self.row + (u * self.sin + v * self.cos) * self.ppm,
        )

    def local(self, other: Frame) -> Point:
        """Where another frame's origin lies in this one, ``(u, v)`` [m]: the inverse of ``at``."""
        dc, dr = (other.col - self.col) / self.ppm, (other.row - self.row) / self.ppm
        return dc * self.cos + dr * self.sin, dr * self.cos - dc * self.sin

    def shape(self, points: Iterable[Point]) -> list[Point]:
        """Canvas polygon of local points [m]."""
        return [self.at(u, v) for u, v in points]

    def rect(self, u0: float, v0: float, u1: float, v1: float) -> list[Point]:
        """Canvas polygon of a local rectangle [m]."""
        return self.shape(((u0, v0), (u1, v0), (u1, v1), (u0, v1)))

    def moved(self, u: float, v: float, quarter_turns: int = 0) -> Frame:
        """The frame with its origin at ``(u, v)``, turned by multiples of 90 degrees."""
        cos, sin = self.cos, self.sin
        for _ in range(quarter_turns % 4):
            cos, sin = -sin, cos
        col, row = self.at(u, v)
        return Frame(col, row, cos, sin, self.ppm)


class Canvas:
    """An RGB picture under construction; coordinates are (col, row) in supersampled pixels."""

    def __init__(self, height: int, width: int, gsd_m: float, dice: Dice, light: Light) -> None:
        self.height, self.width = height * SUPERSAMPLING, width * SUPERSAMPLING
        self.gsd_m = gsd_m
        self.ppm = SUPERSAMPLING / gsd_m
        self.dice = dice
        self.light = light
        self.image = Image.new("RGB", (self.width, self.height))
        self.draw = ImageDraw.Draw(self.image)
        # Mean colour of the open land, which sites take some of their tone from.
        self.land: Colour = (110, 110, 84)

    @property
    def sun(self) -> Point:
        """Direction (col, row) in which brightness rises with height: towards the light's far side."""
        return self.light.shadow

    def frame(self, col: float, row: float, angle_deg: float) -> Frame:
        """Local axes at a canvas position."""
        turn = math.radians(angle_deg)
        # Rounded so that the last bit of the platform's libm cannot move a vertex.
        return Frame(col, row, round(math.cos(turn), 9), round(math.sin(turn), 9), self.ppm)

    def sees(self, point: Point, margin: float = 0.0) -> bool:
        """Whether a canvas position lies inside the picture, ``margin`` pixels from its edge."""
        return margin <= point[0] < self.width - margin and margin <= point[1] < self.height - margin

    def box_of(self, points: Iterable[Point], pad: float = 0.0) -> Box | None:
        """Pixel box around points, cut to the picture; None when nothing of it is inside."""
        listed = list(points)
        left = max(0, math.floor(min(p[0] for p in listed) - pad))
        top = max(0, math.floor(min(p[1] for p in listed) - pad))
        right = min(self.width, math.ceil(max(p[0] for p in listed) + pad) + 1)
        bottom = min(self.height, math.ceil(max(p[1] for p in listed) + pad) + 1)
        return (left, top, right, bottom) if right - left > 1 and bottom - top > 1 else None

    def polygon(self, points: Polygon, colour: Colour) -> None:
        """Fill one polygon with a flat colour."""
        self.draw.polygon([(round(c), round(r)) for c, r in points], fill=colour)

    def line(self, points: Polygon, colour: Colour, width_px: float) -> None:
        """Draw a polyline."""
        width = max(1, round(width_px))
        self.draw.line([(round(c), round(r)) for c, r in points], fill=colour, width=width, joint="curve")

    def disc(self, centre: Point, radius: float, colour: Colour) -> None:
        """Fill a circle."""
        col, row = round(centre[0]), round(centre[1])
        size = max(1, round(radius))
        self.draw.ellipse((col - size, row - size, col + size, row + size), fill=colour)

    def mask_of(self, polygons: Iterable[Polygon], box: Box, value: int = 255) -> Image.Image:
        """Polygons drawn into a mask of ``box``."""
        mask = Image.new("L", (box[2] - box[0], box[3] - box[1]))
        pen = ImageDraw.Draw(mask)
        for points in polygons:
            pen.polygon([(round(c) - box[0], round(r) - box[1]) for c, r in points], fill=value)
        return mask

    def roughened(self, mask: Image.Image, reach: float, cell: float) -> Image.Image:
        """A mask with its outline moved in and out by noise of about ``reach`` pixels."""
        reach = max(1.0, reach)
        soft = np.asarray(mask.filter(ImageFilter.BoxBlur(reach)), dtype=np.float32)
        wobble = noise(self.dice, mask.height, mask.width, max(2.0, cell))
        wobble = wobble + noise(self.dice, mask.height, mask.width, max(1.5, cell / 3)) * np.float32(0.6)
        # The gain keeps noise from showing where the mask is empty: (-127 + 95) * 4.5 is below -127.
        push = np.clip(wobble * np.float32(70), -95, 95)
        edge = (soft - np.float32(127) + push) * np.float32(4.5) + np.float32(127)
        hard: NDArray[np.uint8] = np.clip(edge, 0, 255).astype(np.uint8)
        return Image.fromarray(hard)

    def fill(
        self,
        polygons: Sequence[Polygon],
        texture: Callable[[int, int], Image.Image] | Colour,
        *,
        rough: float = 0.0,
        cell: float = 12.0,
        soft: float = 0.0,
    ) -> None:
        """Fill polygons with a texture (called with height, width of their box) or a colour.

        Args:
            polygons: Canvas polygons.
            texture: The filling.
            rough: How far noise moves the outline [px].
            cell: Size of that noise [px].
            soft: Blur of the outline [px].
        """
        box = self.box_of((p for points in polygons for p in points), pad=rough + 2 * soft)
        if box is None:
            return
        mask = self.mask_of(polygons, box)
        if rough:
            mask = self.roughened(mask, rough, cell)
        if soft:
            mask = mask.filter(ImageFilter.BoxBlur(soft))
        if callable(texture):
            self.image.paste(texture(mask.height, mask.width), box, mask)
        else:
            self.image.paste(texture, box, mask)

    def shadows(self, casters: Sequence[tuple[Polygon, float]], *, low: bool = False) -> None:
        """Darken the ground beside upright prisms given as (footprint, height [m]).

        A ``low`` caster hides the gap between itself and its shifted footprint, which then need not be drawn.
        """
        swept: list[Polygon] = []
        for points, height_m in casters:
            reach = height_m * self.light.length * self.ppm
            dc, dr = self.light.shadow[0] * reach, self.light.shadow[1] * reach
            far = [(c + dc, r + dr) for c, r in points]
            swept.append(far)
            for i in range(0 if low else len(points)):
                swept.append([points[i - 1], points[i], far[i], far[i - 1]])
        if not swept:
            return
        box = self.box_of(p for points in swept for p in points)
        if box is not None:
            mask = self.mask_of(swept, box, value=round(255 * self.light.darkness))
            self.image.paste((12, 16, 26), box, mask)

    def trees(self, spots: Sequence[tuple[Point, float]], colour: Colour) -> int:
        """Draw single trees given as (canvas position, crown radius [px]) and count those inside."""
        inside = [(p, max(1.5, r)) for p, r in spots if self.sees(p, -2 * r)]
        if not inside:
            return 0
        reach = max(r for _, r in inside)
        box = self.box_of((p for p, _ in inside), pad=3 * reach)
        if box is None:
            return 0
        size = (box[2] - box[0], box[3] - box[1])
        dark, crown, lit = (Image.new("L", size) for _ in range(3))
        pens = [ImageDraw.Draw(layer) for layer in (dark, crown, lit)]
        dc, dr = self.light.shadow
        for (col, row), radius in inside:
            col, row = col - box[0], row - box[1]
            for pen, shift, scale, value in zip(
                pens, (radius * 0.9, 0.0, -0.35 * radius), (1.0, 1.0, 0.5), (150, 255, 90), strict=True
            ):
                c, r, s = col + dc * shift, row + dr * shift, radius * scale
                pen.ellipse((round(c - s), round(r - s), round(c + s), round(r + s)), fill=value)
        self.image.paste((12, 16, 22), box, dark)
        # One small sheet of leaves, repeated: single crowns do not show the seams.
        sheet = np.asarray(canopy(self.dice, 96, 96, colour, crown=max(3.0, reach), sun=self.sun))
        leaves = np.tile(sheet, (-(-size[1] // 96), -(-size[0] // 96), 1))[: size[1], : size[0]]
        self.image.paste(Image.fromarray(leaves), box, crown)
        light = (min(255, colour[0] + 62), min(255, colour[1] + 66), min(255, colour[2] + 40))
        self.image.paste(light, box, lit)
        return sum(self.sees(p) for p, _ in inside)

    def finished(self) -> NDArray[np.uint8]:
        """The picture at final resolution, as a camera would have seen it: ``(H, W, 3) uint8``."""
        dice = self.dice
        small = self.image.reduce(SUPERSAMPLING)
        if dice.chance(0.7):
            small = small.filter(ImageFilter.GaussianBlur(dice.uniform(0.25, 0.75)))
        rgb = np.asarray(small)
        height, width = rgb.shape[:2]
        channels = [rgb[:, :, k].astype(np.float32) for k in range(3)]
        grey = (channels[0] + channels[1] * np.float32(2) + channels[2]) * np.float32(0.25)
        saturation = np.float32(dice.uniform(0.6, 1.1))
        gain = dice.uniform(0.8, 1.25)
        haze = dice.uniform(0.0, 0.2) if dice.chance(0.5) else 0.0
        veil = dice.pick(((150, 160, 175), (140, 135, 150), (165, 155, 140)))
        level = noise(dice, height, width, 3.0) * np.float32(dice.uniform(0.01, 0.04)) + np.float32(1)
        # Two uniform draws make a triangular density: close enough to sensor noise, and free of libm.
        draws = dice.rng.integers(-64, 65, (2, height, width), dtype=np.int8)
        sensor = np.add(draws[0], draws[1], dtype=np.float32) * np.float32(dice.uniform(1.0, 4.5) / 52)
        out = np.empty((height, width, 3), dtype=np.uint8)
        for k, channel in enumerate(channels):
            tint = np.float32(gain * dice.uniform(0.95, 1.05) * (1 - haze))
            value = (grey + (channel - grey) * saturation) * level * tint + np.float32(veil[k] * haze)
            out[:, :, k] = np.clip(value + sensor + np.float32(0.5), 0, 255)
        return out
