"""What all parts are drawn with: random numbers, paints, curves, and the scene."""
