"""Floor 4: experiments from a frozen description to numbers, verdicts and pictures."""
