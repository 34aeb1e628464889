cwlVersion: v1.2
class: CommandLineTool
requirements:
  DockerRequirement: {dockerPull: 'quay.io/jupyter/scipy-notebook:2025-03-14'}
baseCommand: python
inputs:
  script: {type: File, inputBinding: {position: 1}}
  selected: {type: File, inputBinding: {prefix: --selected, position: 2}}
  mass: {type: 'float[]', inputBinding: {prefix: --mass, position: 2}}
  bins: {type: int, inputBinding: {prefix: --bins, position: 2}}
arguments: [{prefix: --output, valueFrom: histogram.json, position: 3}]
outputs:
  histogram: {type: File, outputBinding: {glob: histogram.json}}
