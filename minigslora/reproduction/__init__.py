"""Published tables beside ours: scenarios, grids of notebook runs, collection into one page.

- :mod:`published`: the printed numbers and the scenarios they belong to;
- :mod:`benchmark`: one scenario, one method, one seed;
- :mod:`grid`: many of them, each a papermill run in a process of its own;
- :mod:`engines`: where they run;
- :mod:`page`: what came of them, as CSV and HTML; :mod:`report`: the same of a single erasure;
- :mod:`audit_page`: what the audits found of a model;
- :mod:`rendering`: all pages' HTML, from the folder ``templates``.
"""
