"""What a program needs of a machine that is not here: compiled for it, measured and reckoned."""
