"""The parts of a drawing, each with the seeds of its own geometry."""
