/* Questions that programs ask the terminal (where is the cursor, what are you, which colour). Only one screen may
   answer each, and only while it is asked: not when history is shown again, and not from a recording. */

/** Answers pass only while `mayAnswer()` holds; `onAnswer()` is called right before one. */
export function guardQueries(terminal, mayAnswer, onAnswer) {
  const silence = () => {
    if (!mayAnswer()) return true;
    onAnswer();
    return false;
  };
  const { parser } = terminal;
  for (const id of [
    { final: "n" }, { prefix: "?", final: "n" }, // DSR
    { final: "c" }, { prefix: ">", final: "c" }, { prefix: "=", final: "c" }, // device attributes
    { prefix: ">", final: "q" }, // XTVERSION
    { intermediates: "$", final: "p" }, { prefix: "?", intermediates: "$", final: "p" }, // DECRQM
    { final: "t" }, // window reports
  ]) parser.registerCsiHandler(id, silence);
  for (const id of [{ intermediates: "$", final: "q" }, { intermediates: "+", final: "q" }]) parser.registerDcsHandler(id, silence);
  for (const code of [4, 10, 11, 12]) parser.registerOscHandler(code, (data) => data.includes("?") && silence());
}
