"""What is kept between runs: a record per tile, and who is at work."""
