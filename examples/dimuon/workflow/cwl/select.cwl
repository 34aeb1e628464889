cwlVersion: v1.2
class: CommandLineTool
requirements:
  DockerRequirement: {dockerPull: 'quay.io/jupyter/scipy-notebook:2025-03-14'}
baseCommand: python
inputs:
  script: {type: File, inputBinding: {position: 1}}
  events: {type: File, inputBinding: {prefix: --events, position: 2}}
  min_pt: {type: float, inputBinding: {prefix: --min-pt, position: 2}}
  mass: {type: 'float[]', inputBinding: {prefix: --mass, position: 2}}
arguments: [{prefix: --output, valueFrom: selected.csv, position: 3}]
outputs:
  selected: {type: File, outputBinding: {glob: selected.csv}}
