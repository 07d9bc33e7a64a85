"""The colours of labels, in every picture the same. No matplotlib."""

# Okabe and Ito's palette, told apart under the common colour blindnesses, without black; ordered for dark ground.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2")


def colour(place: int) -> tuple[float, float, float]:
    """Return the RGB of the place-th label; past the palette's end its colours come again paler, then darker."""
    rounds, index = divmod(place, len(PALETTE))
    keep, ground = ((1.0, 0.0), (0.45, 1.0), (0.55, 0.0))[rounds % 3]
    parts = bytes.fromhex(PALETTE[index][1:])
    red, green, blue = (keep * part / 255 + (1 - keep) * ground for part in parts)
    return red, green, blue
