"""Chips, cards and how they are joined: `topology.describe` names what need not be there."""
