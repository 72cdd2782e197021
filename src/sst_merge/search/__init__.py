"""Which method, strength and rank: merges are tried on dev prompts until nobody has to guess any more.

The contract of this room: a trial is the very merge that its command writes, whatever is shared with other trials; dev
prompts alone decide; what was measured once is never measured again.
"""
