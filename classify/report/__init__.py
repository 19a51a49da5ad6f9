"""From a run to what one reads: the report page, its figures and its leaderboard."""
