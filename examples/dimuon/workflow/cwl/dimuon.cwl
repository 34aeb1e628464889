cwlVersion: v1.2
class: Workflow
doc: From recorded collisions to the mass of the Z boson.

inputs:
  events: {type: File, doc: muon pairs as comma-separated values}
  select_events: {type: File, doc: the script of the first step}
  histogram_script: File
  fit_script: File
  plot_script: File
  min_pt: {type: float, doc: "smallest transverse momentum of a muon, in GeV"}
  mass: {type: "float[]", doc: "lowest and highest mass of a pair, in GeV"}
  bins: int

outputs:
  fit_result: {type: File, outputSource: fit/result}
  figure: {type: File, outputSource: plot/figure}

steps:
  select:
    run: select.cwl
    in: {script: select_events, events: events, min_pt: min_pt, mass: mass}
    out: [selected]
  histogram:
    run: histogram.cwl
    in: {script: histogram_script, selected: select/selected, mass: mass, bins: bins}
    out: [histogram]
  fit:
    run: fit.cwl
    hints:
      reana: {kubernetes_memory_limit: 512Mi}
    in: {script: fit_script, histogram: histogram/histogram}
    out: [result]
  plot:
    run: plot.cwl
    in: {script: plot_script, histogram: histogram/histogram, fit: fit/result}
    out: [figure]
