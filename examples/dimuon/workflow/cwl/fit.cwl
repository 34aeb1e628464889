cwlVersion: v1.2
class: CommandLineTool
requirements:
  DockerRequirement: {dockerPull: 'quay.io/jupyter/scipy-notebook:2025-03-14'}
baseCommand: python
inputs:
  script: {type: File, inputBinding: {position: 1}}
  histogram: {type: File, inputBinding: {prefix: --histogram, position: 2}}
arguments: [{prefix: --output, valueFrom: fit.json, position: 3}]
outputs:
  result: {type: File, outputBinding: {glob: fit.json}}
