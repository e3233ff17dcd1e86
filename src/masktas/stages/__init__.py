"""One file a verb: each reads the artifacts of the stage before and writes its own."""
