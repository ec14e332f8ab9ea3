"""Results handed to other programs and libraries, without a file between."""
