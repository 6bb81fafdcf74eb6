"""What goes on: requests under way, questions of agents, the limits of the plan, counters."""
