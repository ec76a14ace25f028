"""The model that MLflow loads: logged by path, the code it imports beside it (registry/served_code). MLflow runs it."""

from __future__ import annotations

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from bertft_core.serving.predictor import Predictor, unfolded


class ServedClassifier(PythonModel):
    """`text` (and `text_pair`) columns in; label, confidence and probability_<class> out."""

    def load_context(self, context: Any) -> None:
        self.predictor = Predictor.load(context.artifacts["model"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        batch_size = (params or {}).get("batch_size", 0)
        return self.predictor.predict_frame(unfolded(model_input), batch_size=batch_size or None)


set_model(ServedClassifier())
