"""The units in which two plates can be compared."""

UNITS = {
    "target": "in the target's own units (a normalised prediction is brought back with its stored location and scale)",
    "normalized": "target minus location, over scale, as stored with the prediction when it was made",
    "standardized": "each stack minus its own mean, over its own sd: differences of offset and contrast do not count",
}
CHOICES = ("auto", *UNITS)
