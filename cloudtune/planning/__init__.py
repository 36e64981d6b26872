"""From recipe, shape and offers to a plan; pure."""
