"""Sessions, trackers, backends: the policy of attaching, iterating and freezing."""
