"""Real data without a download: the docstrings of the installed packages, one file per kind of row."""

from propulsion_tools.tasks.mining.completions import mine_completions
from propulsion_tools.tasks.mining.mentions import mine_mentions
from propulsion_tools.tasks.mining.packages import mine_packages
from propulsion_tools.tasks.mining.questions import mine_questions
from propulsion_tools.tasks.mining.summaries import mine_summaries

__all__ = ["mine_completions", "mine_mentions", "mine_packages", "mine_questions", "mine_summaries"]
