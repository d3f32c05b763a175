"""Who is told how the making of a plate goes on."""


class Listener:
    """Is told how the work goes on, time point after time point, from whatever thread; this one keeps it to itself,
    `program.ProgressBar` shows it."""

    def started(self, positions: int, finished_before: int, slices: int) -> None:
        """So many positions are this process's, so many of them are finished, so many slices (Z) are to be computed."""

    def position_begins(self, name: str) -> None:
        """A position is computed from now on."""

    def slices_done(self, slices: int) -> None:
        """So many slices were computed since the last call."""

    def position_finished(self, name: str) -> None:
        """A position is on disk and marked so."""

    def ended(self) -> None:
        """Nothing more comes: all is done, or an error is on its way."""
