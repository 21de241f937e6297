# Fails if a kernel object file defines a weak or global symbol outside its own level's namespace: the linker keeps one copy of such a
# symbol, and it may be one that an older processor cannot run. -DNM=<nm> -DLEVEL=<cpu_v3> -DOBJECTS=<files>
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND ${NM} -C --defined-only --extern-only ${object} OUTPUT_VARIABLE symbols RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "cannot read ${object}")
  endif()
  string(REPLACE ";" "," symbols "${symbols}")
  string(REPLACE "\n" ";" symbols "${symbols}")
  foreach(symbol IN LISTS symbols)
    # What compilers add for exceptions does not depend on the level.
    if(symbol AND NOT symbol MATCHES "retape::${LEVEL}::|DW.ref.__gxx_personality|__clang_call_terminate")
      string(APPEND shared "${object}: ${symbol}\n")
    endif()
  endforeach()
endforeach()
if(shared)
  message(FATAL_ERROR "symbols that other levels may share:\n${shared}")
endif()
