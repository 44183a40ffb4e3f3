"""The stages of a job, each with what it notes: survey, copies, plan, units, index."""
