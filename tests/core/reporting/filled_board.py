"""A board of one model with a month of nights, for the tests of the page."""

from __future__ import annotations

from bertft_core.reporting.board.page import BoardPage, Champion, Decision, Drift, ModelCard, NightMark, Notice, Power

OUTCOMES_OF_A_MONTH = ("promoted", *["skipped"] * 27, "kept", "failed")
CARD = ModelCard(
    name="tickets",
    champion=Champion(
        version="4",
        since="2026-11-21T02:41:09Z",
        how="a promotion",
        by="nights@desk",
        score=0.7761,
        interval=(0.7404, 0.81),
        report="runs/0123456789ab/evaluation/report.html",
    ),
    metric="macro F1",
    nights=tuple(
        NightMark(night=f"2026-11-{day:02d}", outcome=outcome, reason=f"reason {day}")
        for day, outcome in enumerate(OUTCOMES_OF_A_MONTH, 1)
    ),
    decisions=(
        Decision(
            number=1,
            at="2026-11-01T02:41:09Z",
            action="promoted",
            version="1",
            champion="1",
            by="nights@desk",
            reason="no champion yet",
            score=0.3,
            interval=(0.25, 0.35),
            is_promotion=True,
        ),
        Decision(
            number=2,
            at="2026-11-21T02:41:09Z",
            action="promoted",
            version="4",
            champion="4",
            by="nights@desk",
            reason="better than version 1",
            score=0.7761,
            champion_score=0.3255,
            is_promotion=True,
        ),
        Decision(
            number=3,
            at="2026-11-22T02:41:09Z",
            action="kept",
            version="5",
            champion="4",
            by="nights@desk",
            reason="a tie",
            score=0.7829,
            champion_score=0.7732,
        ),
    ),
    power=Power(n=699, least=0.0552, sentence="On 699 rows a difference of 0.055 is shown."),
    drift=(
        Drift(name="text drift", value="AUROC 0.58", night="2026-11-20"),
        Drift(name="class shares", value="differ by 0.08", night="2026-11-20"),
    ),
    waiting=(
        Notice(text="version 5 awaits approval: better", command="bertft promote tickets 5 --approve"),
        Notice(text="night 2026-11-30: failed: no room", command="bertft nights tickets"),
    ),
    night_page="nights/tickets.html",
    notes=("version 3 was rolled back",),
)
PAGE = BoardPage(
    written="2026-11-30T02:45:00+00:00",
    home="/srv/home",
    registry="sqlite:////srv/home/mlflow.db",
    models=(CARD,),
    disk=(("artifacts", 2_500_000_000), ("runs", 1_200_000)),
    free=40_000_000_000,
)
