"""Networks of transformers that are told in words what to look for: ``prompts=["ship", "dock"]``.

Detectors that look for one prompt after the other (OWL-ViT, OWLv2) are pipelines, and are asked
as those are. The networks here are asked through their processors, as their own pages do it:
Grounding DINO reads all prompts at once, SAM 3 finds the instances of each, CLIPSeg makes a map of
each, and CLIP, SigLIP and their like say which of them a tile shows.
"""

from tilevision.adapters.prompted.prompting import check_prompts, load, takes_words_alone, worded

__all__ = ["check_prompts", "load", "takes_words_alone", "worded"]
