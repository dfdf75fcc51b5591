"""From files to batches. What all families share lies here; a room for each kind of data lies below."""
