"""Chest phantoms: who has which finding and how badly, the probability of every label, and the picture that shows it.

A severity is what is drawn. The label is then drawn from a known probability given the severity, so the posterior
probability of every label given the picture is known, and with it the best score that anything can reach.
"""

from dataclasses import dataclass

import cv2
import numpy as np

LABELS = ("effusion", "consolidation", "cardiomegaly")
PREVALENCE = np.array([0.46, 0.36, 0.23])
CORRELATION = np.array([[1.0, 0.45, 0.40], [0.45, 1.0, 0.20], [0.40, 0.20, 1.0]])  # of the findings' latent variables
PATIENT_SHARE = 0.6   # of a latent's variance is the patient's, the rest changes from image to image
HALF_SEVERITY = 0.35  # the severity at which a reader calls every other image positive
STEEPNESS = 13.0      # of that call; the lower, the less even a perfect reader knows
LEAST_SEVERITY = np.array([0.0, 0.0, -0.6])  # nothing to see; below 0 a heart is slimmer than most
SPREAD = 0.42         # severity a standard deviation of the latent
# the latent at half severity: the roots, found by bisection, at which labels have PREVALENCE
OFFSETS = np.array([0.11085111052679394, 0.3850964141120168, 0.7776654234069871])


# ---- who has what


def draw_severities(rng: np.random.Generator, patients: np.ndarray) -> np.ndarray:
    """(N, K) severities, 0 (nothing to see) to 1.4 (plain), of images that belong to `patients` (N,), 0-based.

    A Gaussian copula: findings go together, and more so within a patient.
    """
    mix = np.linalg.cholesky(CORRELATION).T
    of_patient = rng.standard_normal((patients.max() + 1, len(LABELS))) @ mix
    of_image = rng.standard_normal((len(patients), len(LABELS))) @ mix
    latent = np.sqrt(PATIENT_SHARE) * of_patient[patients] + np.sqrt(1 - PATIENT_SHARE) * of_image
    return np.clip(HALF_SEVERITY + SPREAD * (latent - OFFSETS), LEAST_SEVERITY, 1.4)


def label_probs(severities: np.ndarray) -> np.ndarray:
    """P(label = 1 | severity), before label noise."""
    return 1 / (1 + np.exp(-STEEPNESS * (severities - HALF_SEVERITY)))


def posterior(severities: np.ndarray, black: np.ndarray, label_noise: float) -> np.ndarray:
    """(N, K) P(label = 1 | picture); for a black picture it is the prevalence."""
    clean = np.where(black[:, None], PREVALENCE, label_probs(severities))
    return (1 - 2 * label_noise) * clean + label_noise


# ---- the picture, in coordinates of the chest: x from -1 (image left) to 1, y from 0 (neck) to 1 (below the diaphragm)


@dataclass(frozen=True)
class Site:
    """How a hospital's machine turns density into grey values."""

    gain: float
    offset: float
    gamma: float
    noise: float  # standard deviation, share of the full range
    blur: float   # of the picture, share of its side


SITES = (Site(gain=1.0, offset=0.0, gamma=1.0, noise=0.02, blur=0.0),
         Site(gain=0.8, offset=0.1, gamma=0.8, noise=0.035, blur=0.006))


def draw_phantom(patient_rng: np.random.Generator, rng: np.random.Generator, severities: np.ndarray, size: int,
                 site: Site, token: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """One picture, uint8 (size, size), and the mask of each finding that is drawn in it, bool (size, size).

    patient_rng: always in the same state for one patient, whose build does not change;  rng: this image's own.
    """
    build, pose = _draw_build(patient_rng), _draw_pose(rng)
    canvas = size * (2 if size < 256 else 1)  # drawn larger and averaged, so that edges are smooth
    x, y = _chest_grid(canvas, pose)
    wall = build["width"] * (0.62 + 0.38 * _smooth((y + 0.1) / 0.55))        # half width of the chest at this height
    inner = wall - 0.07
    lungs, bases = _lungs(x, y, inner, build, pose)
    heart = _heart(x, y, build, severities[2])
    midline = _mediastinum(x, y, build)
    solid = np.maximum(heart, midline)
    air = lungs * (1 - solid)

    fluid = _effusion(x, y, inner, bases, severities[0], rng) * lungs
    patches = _consolidation(x, y, inner, severities[1], rng) * air
    density = 0.58 * _soft(wall - np.abs(x), 0.05) * _soft(y + 0.12, 0.2)
    density += 0.10 * _soft(y - bases, 0.04) * _soft(wall - np.abs(x), 0.05)  # the abdomen is denser than muscle
    density -= 0.40 * air * (1 - 0.92 * fluid) * (1 - 0.8 * patches)
    density += 0.07 * heart + 0.05 * midline
    density += air * _vessels(x, y, rng)
    density += _bones(x, y, wall, build)
    density += _distractors(x, y, build, rng) * _soft(wall - np.abs(x), 0.02)
    density += 0.05 * _clouds(rng, canvas, 5)
    corner = rng.uniform((0.03, 0.12), (0.06, 0.15))  # drawn in any case: the letter must change nothing else
    if token:
        _write_token(density, corner)

    picture = _expose(density, size, site, rng)
    masks = {}
    findings = (fluid > 0.5, patches > 0.15, (heart > 0.5) & (severities[2] > HALF_SEVERITY))
    for label, drawn in zip(LABELS, findings, strict=True):
        if (small := _shrink(drawn.astype(np.float32), size) > 0.5).any():
            masks[label] = small
    return picture, masks


def _draw_build(rng: np.random.Generator) -> dict[str, float]:
    return {
        "width": rng.uniform(0.78, 0.93), "apex": rng.uniform(0.04, 0.11), "base": rng.uniform(0.76, 0.86),
        "heart_y": rng.uniform(0.60, 0.67), "heart_tilt": rng.uniform(0.2, 0.6), "heart_ratio": rng.normal(0, 0.012),
        "neck": rng.uniform(0.09, 0.13), "knob": rng.uniform(0.02, 0.07), "ribs": rng.uniform(0.085, 0.105),
        "rib_phase": rng.uniform(0, 1), "rib_tilt": rng.uniform(0.15, 0.3), "rib_density": rng.uniform(0.05, 0.11),
        "breast": rng.uniform(0.05, 0.15) * (rng.random() < 0.45), "breast_y": rng.uniform(0.58, 0.7),
        "curve": rng.normal(0, 0.03),
    }


def _draw_pose(rng: np.random.Generator) -> dict[str, float]:
    return {
        "angle": np.deg2rad(rng.uniform(-8, 8)), "scale": rng.uniform(0.9, 1.12), "shift_x": rng.uniform(-0.08, 0.08),
        "shift_y": rng.uniform(-0.05, 0.05), "breath": rng.normal(0, 0.025), "left_dome": rng.uniform(0.0, 0.05),
        "turn": rng.normal(0, 0.03),
    }


def _chest_grid(canvas: int, pose: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Chest coordinates (x, y) of every canvas pixel."""
    ticks = (np.arange(canvas, dtype=np.float32) + 0.5) / canvas * 2 - 1
    u, v = np.meshgrid(ticks, ticks)
    cos, sin = np.float32(np.cos(pose["angle"]) / pose["scale"]), np.float32(np.sin(pose["angle"]) / pose["scale"])
    x = cos * (u - np.float32(pose["shift_x"])) + sin * (v - np.float32(pose["shift_y"]))
    y = -sin * (u - np.float32(pose["shift_x"])) + cos * (v - np.float32(pose["shift_y"]))
    return x + np.float32(pose["turn"]), (y + 1) / 2


def _soft(distance: np.ndarray, width: float) -> np.ndarray:
    """0 outside, 1 inside, with a soft edge of `width` around distance 0."""
    return np.clip(distance / np.float32(width) + np.float32(0.5), 0, 1)


def _smooth(t: np.ndarray) -> np.ndarray:
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def _bump(x: np.ndarray, y: np.ndarray, at: tuple[float, float], radius: tuple[float, float],
          angle: float = 0.0) -> np.ndarray:
    """A Gaussian hill of height 1."""
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    dx, dy = x - np.float32(at[0]), y - np.float32(at[1])
    along, across = (cos * dx + sin * dy) / np.float32(radius[0]), (cos * dy - sin * dx) / np.float32(radius[1])
    return np.exp(-(along**2 + across**2) / 2)


def _lungs(x: np.ndarray, y: np.ndarray, inner: np.ndarray, build: dict, pose: dict) -> tuple[np.ndarray, np.ndarray]:
    """Both lungs in [0, 1], and the diaphragm's height over x: a dome in each half, the image's left one higher."""
    half = np.abs(x) / np.maximum(inner, 0.2)
    dome = 0.10 * (1 - (2 * half - 1) ** 2)
    higher = np.where(x > 0, np.float32(pose["left_dome"]), 0)
    bases = np.float32(build["base"] + pose["breath"]) - dome + higher + 0.06 * half**4
    apex = np.float32(build["apex"]) + 0.25 * (half - 0.42) ** 2
    lungs = _soft(inner - np.abs(x), 0.03) * _soft(y - apex, 0.03) * _soft(bases - y, 0.025)
    return lungs * _soft(np.abs(x) - 0.07, 0.05), bases


def _heart(x: np.ndarray, y: np.ndarray, build: dict, severity: float) -> np.ndarray:
    """The heart in [0, 1]; its width over the chest's, the cardiothoracic ratio, is 0.42 + 0.2 a unit of severity."""
    ratio = 0.42 + 0.2 * severity + build["heart_ratio"]
    reach = ratio * (build["width"] - 0.07)
    at = (0.30 * reach, build["heart_y"])  # two thirds of it lie on the image's right
    cos, sin = np.float32(np.cos(build["heart_tilt"])), np.float32(np.sin(build["heart_tilt"]))
    dx, dy = x - np.float32(at[0]), (y - np.float32(at[1])) * 2
    along, across = cos * dx + sin * dy, cos * dy - sin * dx
    distance = 1 - np.sqrt((along / np.float32(reach)) ** 2 + (across / np.float32(0.36 + 0.25 * reach)) ** 2)
    return _soft(distance, 0.12)


def _mediastinum(x: np.ndarray, y: np.ndarray, build: dict) -> np.ndarray:
    width = np.float32(build["neck"]) + 0.05 * _smooth((y - 0.3) / 0.4)
    knob = np.float32(build["knob"]) * np.exp(-(((y - 0.27) / 0.05) ** 2)) * (x > 0)
    return _soft(width + knob - np.abs(x - np.float32(build["curve"]) * np.sin(4 * y)), 0.05) * _soft(0.95 - y, 0.1)


def _bones(x: np.ndarray, y: np.ndarray, wall: np.ndarray, build: dict) -> np.ndarray:
    """Ribs from the spine outwards and down, their front ends crossing, the spine with its discs, two clavicles."""
    inside, side = _soft(wall - np.abs(x), 0.04), np.abs(x)
    back = (y - build["rib_tilt"] * side + 0.35 * side**2) / build["ribs"] + build["rib_phase"]
    front = (y + 0.55 * build["rib_tilt"] * side + 0.1 * side**2) / (1.1 * build["ribs"]) + build["rib_phase"] + 0.4
    ribs = _pulse(back, 0.34) + 0.45 * _pulse(front, 0.3) * _smooth((side - 0.25) / 0.2)
    ribs *= _soft(0.84 - y, 0.1) * _soft(y - 0.03, 0.05) * _soft(side - 0.08, 0.06)
    spine = _soft(0.075 - np.abs(x - build["curve"] * np.sin(4 * y)), 0.03) * (0.7 + 0.3 * _pulse(y / 0.075, 0.7))
    above = y - 0.13 + 0.10 * side - 0.10 * side**2
    clavicles = np.exp(-((above / 0.016) ** 2)) * _soft(side - 0.1, 0.05) * _soft(0.75 - side, 0.1)
    return np.float32(build["rib_density"]) * ribs * inside + 0.10 * spine + 0.12 * clavicles * inside


def _pulse(phase: np.ndarray, share: float) -> np.ndarray:
    """1 on `share` of every period of 1, 0 elsewhere, with soft edges."""
    return _soft(np.float32(share / 2) - np.abs(phase - np.floor(phase) - 0.5), 0.12)


def _vessels(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vessels that fan out from the two hila and fade."""
    strands = np.zeros_like(x)
    for side in (-1, 1):
        dx, dy = x * side - 0.14, (y - np.float32(rng.uniform(0.42, 0.48))) * 2
        radius, angle = np.sqrt(dx**2 + dy**2) + 1e-3, np.arctan2(dy, dx)
        wave = np.sin(angle * rng.integers(7, 12) + rng.uniform(0, 6) + 2 * np.sin(3 * radius + rng.uniform(0, 6)))
        hilum, fan = 0.22 * np.exp(-((radius / 0.16) ** 2)), 0.07 * (wave > 0.75) * np.exp(-radius / 0.35)
        strands += (x * side > 0) * (hilum + fan)
    return strands


def _effusion(x: np.ndarray, y: np.ndarray, inner: np.ndarray, bases: np.ndarray, severity: float,
              rng: np.random.Generator) -> np.ndarray:
    """Fluid in [0, 1]: a blunted angle that becomes a meniscus, highest at the chest wall; on one side or both."""
    side = rng.choice((-1, 1))
    second = rng.random() < 0.3
    share = rng.uniform(0.4, 0.9)
    edge = rng.uniform(0.03, 0.07)
    fluid = np.zeros_like(x)
    if severity <= 0:
        return fluid
    for sign, amount in ((side, severity), (-side, severity * share * second)):
        lateral = np.clip(x * sign / inner, 0, 1)
        pool = np.float32(0.30 * amount) * (0.25 + 0.75 * lateral**2.5)
        meniscus = np.float32(0.10 * min(amount, 0.5)) * lateral**8
        height = pool + meniscus - 0.02
        fluid = np.maximum(fluid, _soft(y - (bases - height), edge) * (x * sign > 0) * (height > 0))
    return fluid


def _consolidation(x: np.ndarray, y: np.ndarray, inner: np.ndarray, severity: float,
                   rng: np.random.Generator) -> np.ndarray:
    """Patches in [0, 1] in one zone of a lung, ill-defined, mottled, with darker bronchi running through."""
    side, zone, lateral = rng.choice((-1, 1)), rng.uniform(0.25, 0.68), rng.uniform(0.3, 0.75)
    parts = rng.integers(3, 6)
    offsets, radii = rng.normal(0, 0.06, (parts, 2)), rng.uniform(0.05, 0.11, (parts, 2))
    angles = rng.uniform(0, 3, parts)
    phase, strength = rng.uniform(0, 6), rng.uniform(0.75, 1.1)
    if severity <= 0:
        return np.zeros_like(x)
    grow = 0.75 + 0.5 * severity
    patch = np.zeros_like(x)
    for (dx, dy), (rx, ry), angle in zip(offsets, radii, angles, strict=True):
        patch += _bump(x, y, (side * lateral * 0.8 + dx, zone + dy / 2), (rx * grow, 0.6 * ry * grow), angle)
    mottled = 0.75 + 0.25 * np.sin(34 * x + phase) * np.sin(58 * y + 2 * phase)
    return np.clip(patch * mottled, 0, 1) * np.float32(min(1.0, (0.25 + 1.1 * severity) * strength))


def _distractors(x: np.ndarray, y: np.ndarray, build: dict, rng: np.random.Generator) -> np.ndarray:
    """What looks like a finding and is none: breasts, nipples, wires, a stomach bubble, electrodes, nodules."""
    extra = np.zeros_like(x)
    if build["breast"]:
        for side in (-1, 1):
            extra += np.float32(build["breast"]) * _bump(x, y, (side * 0.48, build["breast_y"] + 0.06), (0.2, 0.085))
    if rng.random() < 0.3:
        where = rng.uniform(0.3, 0.55)
        extra += 0.10 * (_bump(x, y, (-where, 0.62), (0.02, 0.01)) + _bump(x, y, (where, 0.62), (0.02, 0.01)))
    if rng.random() < 0.25:
        start, slope, bend = rng.uniform(-0.5, 0.5), rng.normal(0, 0.5), rng.normal(0, 0.4)
        beside = x - start - slope * (y - 0.2) - bend * (y - 0.2) ** 2
        extra += 0.18 * np.exp(-((beside / 0.012) ** 2)) * (y < rng.uniform(0.5, 1.1))
    if rng.random() < 0.3:
        extra -= 0.15 * _bump(x, y, (rng.uniform(0.3, 0.5), rng.uniform(0.88, 0.95)), (0.1, 0.04))
    for _ in range(rng.integers(0, 3)):
        extra += 0.2 * (_bump(x, y, (rng.uniform(-0.7, 0.7), rng.uniform(0.1, 0.9)), (0.025, 0.0125)) > 0.5)
    if rng.random() < 0.5:
        density = rng.uniform(0.04, 0.09)
        at = (rng.choice((-1, 1)) * rng.uniform(0.25, 0.6), rng.uniform(0.25, 0.7))
        extra += density * _bump(x, y, at, (0.12, 0.09))
    return extra


def _clouds(rng: np.random.Generator, canvas: int, cells: int) -> np.ndarray:
    """Slow random variation, about -1 to 1."""
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (canvas, canvas), interpolation=cv2.INTER_CUBIC)


def _write_token(density: np.ndarray, corner: np.ndarray) -> None:
    """A technician's letter in the upper left corner; `corner`: (x, y) of its lower left end, shares of the side."""
    canvas = len(density)
    at = (int(canvas * corner[0]), int(canvas * corner[1]))
    letter = cv2.putText(np.zeros((canvas, canvas), np.uint8), "L", at, cv2.FONT_HERSHEY_SIMPLEX, canvas / 270, 255,
                         max(1, canvas // 50), cv2.LINE_AA)
    density += letter / np.float32(255)


def _expose(density: np.ndarray, size: int, site: Site, rng: np.random.Generator) -> np.ndarray:
    """Density to grey values: the machine's gain and gamma, the exposure of the day, blur and noise."""
    picture = _shrink(density, size)
    if site.blur:
        picture = cv2.GaussianBlur(picture, (0, 0), site.blur * size)
    gain, offset = site.gain * rng.uniform(0.8, 1.2), site.offset + rng.uniform(-0.06, 0.06)
    gamma = site.gamma * rng.uniform(0.8, 1.25)
    picture = gain * np.clip(picture + 0.05, 0, 1.2) ** gamma + offset
    picture += site.noise * rng.uniform(0.7, 1.4) * rng.standard_normal((size, size), dtype=np.float32)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def _shrink(canvas: np.ndarray, size: int) -> np.ndarray:
    return canvas if len(canvas) == size else cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
