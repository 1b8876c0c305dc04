"""Compares the tests that csi-sanity skipped with the reasons in skips.txt: each has one, and each reason is needed."""

import re
import sys
import xml.etree.ElementTree as xml

mode, report, reasons = sys.argv[1:]
lines = [line.rstrip("\n") for line in open(reasons, encoding="utf-8") if line.strip() and not line.startswith("#")]
patterns = [line.split("  ", 1) for line in lines]
passed, skipped, wrong, used = 0, [], [], set()
for case in xml.parse(report).iter("testcase"):
    name = case.get("name")
    if not name.startswith("[It]"):
        continue
    match case.get("status"):
        case "passed":
            passed += 1
        case "skipped" | "pending":
            skipped.append(name)
            found = [pattern for pattern, _ in patterns if re.search(pattern, name)]
            used.update(found)
            if not found:
                wrong.append(f"skipped without a reason in csi-sanity/skips.txt: {name}")
        case status:
            wrong.append(f"{status}: {name}")
wrong += [f"nothing is skipped for this reason any more: {pattern}" for pattern, _ in patterns if pattern not in used]
if passed == 0:
    wrong.append("no test ran")
print(f"csi-sanity ({mode}): {passed} passed, {len(skipped)} skipped, each with its reason")
if wrong:
    sys.exit("\n".join(wrong))
