"""Makes the operator's PrometheusRule from Prometheus' rules, which are the source."""

import yaml
from pathlib import Path

DEPLOY = Path(__file__).parents[2] / "deploy"
MADE = DEPLOY / "kubernetes/components/monitoring/prometheusrule.yaml"

rules = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())
resource = {
    "apiVersion": "monitoring.coreos.com/v1",
    "kind": "PrometheusRule",
    "metadata": {"name": "alim-bridge", "labels": {"release": "kube-prometheus-stack"}},
    "spec": rules,
}
text = yaml.safe_dump(resource, sort_keys=False, allow_unicode=True, width=1000)
MADE.write_text(f"# Made from deploy/prometheus/rules.yml by `deploy/check --write`: change that file.\n{text}")
