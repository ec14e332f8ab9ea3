"""Maps of the image as files: written block by block, whatever the image's size."""
