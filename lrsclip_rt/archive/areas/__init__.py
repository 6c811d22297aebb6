"""Areas of interest: polygons from files, in any CRS, and which tiles touch them."""
