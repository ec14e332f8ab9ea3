"""Models by the name they have on the Hugging Face Hub: ``"hf:owner/repository@revision"``.

The client asks the hub which commit a revision is, downloads the files that the model consists
of into the cache that all of Hugging Face's libraries share, and declares the folder or file as
if it had been given. What travels to workers is the commit and the files' hashes; they read their
own cache and ask nobody.
"""

from tilevision.adapters.hub.hubspec import declare

__all__ = ["declare"]
