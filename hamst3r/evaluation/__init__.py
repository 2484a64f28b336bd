"""How good predictions are: metrics, and what a network reaches on worlds and on recordings."""
