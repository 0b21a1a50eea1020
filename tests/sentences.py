"""Words of the sentences that a tiny model learns to tell apart."""

GOOD = ("good", "great", "fine", "lovely")
BAD = ("bad", "poor", "awful", "dull")
FILLER = ("the", "film", "was", "a", "really", "plot", "and", "actors", "were")
