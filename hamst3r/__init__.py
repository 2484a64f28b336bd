"""People and places together, from a few ordinary cameras (HAMSt3R, arXiv 2508.16433)."""
