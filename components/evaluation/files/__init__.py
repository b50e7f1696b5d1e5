"""Files of an evaluation, as others write and read them: runs, judgements, results."""
