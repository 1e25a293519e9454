// What the loops over the inner dimension consist of on machines that this one
// need not be: Inputs/inner_loops.py has the table.
// RUN: %python %S/Inputs/inner_loops.py %s

!ids = tensor<?x?xi32>
!hidden = tensor<?x?x1024xf32>
!kv = tensor<?x?x512xf32>
!logits = tensor<?x?x2048xf32>
!embedding = tensor<2048x1024xf32>
!vector = tensor<1024xf32>
!square = tensor<1024x1024xf32>
!narrow = tensor<512x1024xf32>
!up = tensor<1536x1024xf32>
!down = tensor<1024x1536xf32>

moe.parameter backbone @embed : !embedding from #moe.init<normal, seed = 1, std = 1.0>
moe.parameter backbone @n1 : !vector from #moe.init<ones, seed = 0>
moe.parameter backbone @n2 : !vector from #moe.init<ones, seed = 0>
moe.parameter backbone @q : !square from #moe.init<normal, seed = 1, std = 0.1>
moe.parameter backbone @k : !narrow from #moe.init<normal, seed = 1, std = 0.1>
moe.parameter backbone @v : !narrow from #moe.init<normal, seed = 1, std = 0.1>
moe.parameter backbone @o : !square from #moe.init<normal, seed = 1, std = 0.1>
moe.parameter backbone @gate : !up from #moe.init<normal, seed = 1, std = 0.1>
moe.parameter backbone @up : !up from #moe.init<normal, seed = 1, std = 0.1>
moe.parameter backbone @down : !down from #moe.init<normal, seed = 1, std = 0.1>

func.func @forward(
    %tokens: !ids {moe.binding = #moe.binding<input, "tokens">},
    %slots: !ids {moe.binding = #moe.binding<input, "slots">},
    %segments: !ids {moe.binding = #moe.binding<input, "segments">})
    -> (!logits {moe.binding = #moe.binding<output, "logits">}) {
  %embed = moe.get_parameter @embed : !embedding
  %n1 = moe.get_parameter @n1 : !vector
  %n2 = moe.get_parameter @n2 : !vector
  %wq = moe.get_parameter @q : !square
  %wk = moe.get_parameter @k : !narrow
  %wv = moe.get_parameter @v : !narrow
  %wo = moe.get_parameter @o : !square
  %gate = moe.get_parameter @gate : !up
  %up = moe.get_parameter @up : !up
  %down = moe.get_parameter @down : !down
  %x = moe.embedding %tokens, %embed : (!ids, !embedding) -> !hidden
  %h = call @layer(%x, %slots, %segments, %n1, %wq, %wk, %wv, %wo, %n2, %gate, %up, %down)
    : (!hidden, !ids, !ids, !vector, !square, !narrow, !narrow, !square, !vector, !up, !up, !down) -> !hidden
  %logits = moe.linear %h, %embed : (!hidden, !embedding) -> !logits
  return %logits : !logits
}

func.func private @layer(
    %x: !hidden, %slots: !ids, %segments: !ids, %n1: !vector, %wq: !square, %wk: !narrow, %wv: !narrow, %wo: !square,
    %n2: !vector, %gate: !up, %up: !up, %down: !down) -> !hidden {
  %m1 = moe.rms_norm %x, %n1 {epsilon = 1.0e-5} : (!hidden, !vector) -> !hidden
  %q = moe.linear %m1, %wq : (!hidden, !square) -> !hidden
  %k = moe.linear %m1, %wk : (!hidden, !narrow) -> !kv
  %v = moe.linear %m1, %wv : (!hidden, !narrow) -> !kv
  %a = moe.attention %q, %k, %v, %slots, %segments {heads = 16 : i64, kv_heads = 8 : i64, scale = 0.125}
    : (!hidden, !kv, !kv, !ids, !ids) -> !hidden
  %a1 = moe.linear %a, %wo : (!hidden, !square) -> !hidden
  %h = moe.add %x, %a1 : (!hidden, !hidden) -> !hidden
  %m2 = moe.rms_norm %h, %n2 {epsilon = 1.0e-5} : (!hidden, !vector) -> !hidden
  %y = moe.ffn %m2, %gate, %up, %down {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (!hidden, !up, !up, !down) -> !hidden
  %z = moe.add %h, %y : (!hidden, !hidden) -> !hidden
  return %z : !hidden
}
