"""One job: its options, its output, and the workers that it is shared among."""
