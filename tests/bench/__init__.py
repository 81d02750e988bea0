"""`make bench`: what the tracker costs, beside the least that the kernel lets anyone pay.

run.py -> rows_*.py -> programs.py (victim.c and ref_*.c as processes)
              |              sample.py (in turn, medians, ratios)
              v
          table.py, JSON

Nothing here passes or fails: a benchmark that fails on a busy machine teaches people to ignore it.
"""
