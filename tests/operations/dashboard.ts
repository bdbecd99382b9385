// The types that Grafana itself has for a dashboard, as its JSON must be.
import type { Dashboard, Panel, RowPanel } from '@grafana/schema';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

// In JSON, an enum of strings is its strings.
type Json<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Json<T[K]> } : T;

type Fields = NonNullable<Panel['fieldConfig']>;

interface Target {
  refId: string;
  datasource: { type: 'prometheus'; uid: '${datasource}' };
  expr: string;
  legendFormat: string;
  editorMode: 'code';
  range: boolean;
  instant: boolean;
}

type Kind<Type, Options, Custom> = Json<Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'targets'>> & {
  type: Type;
  options: Partial<Json<Options>>;
  fieldConfig: Json<Omit<Fields, 'defaults'>> & {
    defaults: Json<Omit<Fields['defaults'], 'custom'>> & { custom?: Json<Custom> };
  };
  targets: Target[];
};

export type Row = Json<RowPanel>;
export type Stat = Kind<'stat', stat.Options, {}>;
export type TimeSeries = Kind<'timeseries', timeseries.Options, timeseries.FieldConfig>;
export type Board = Json<Omit<Dashboard, 'panels' | 'id'>> & { id: null; panels: unknown[] };
