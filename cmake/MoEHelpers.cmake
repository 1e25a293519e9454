# Our few helper functions.

# Compiler warnings are errors, for our own code only.
function(moe_warnings target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Werror
    -Wno-unused-parameter)
endfunction()

# moe_library(NAME sources... [LINK libraries...] [DEPENDS targets...])
function(moe_library name)
  cmake_parse_arguments(ARG "" "" "LINK;DEPENDS" ${ARGN})
  add_library(${name} STATIC ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PUBLIC ${ARG_LINK})
  if(ARG_DEPENDS)
    add_dependencies(${name} ${ARG_DEPENDS})
  endif()
  moe_warnings(${name})
endfunction()

# moe_tool(NAME sources... [LINK libraries...])
function(moe_tool name)
  cmake_parse_arguments(ARG "" "" "LINK" ${ARGN})
  add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE ${ARG_LINK})
  moe_warnings(${name})
endfunction()

# moe_unittest(NAME sources... [LINK libraries...]): a GoogleTest program,
# run by ctest.
function(moe_unittest name)
  cmake_parse_arguments(ARG "" "" "LINK" ${ARGN})
  add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE ${ARG_LINK} GTest::gtest_main)
  moe_warnings(${name})
  add_test(NAME unit-${name} COMMAND ${name})
endfunction()

# Finds MLIR 22 and makes its CMake functions and flags known.
macro(moe_find_mlir)
  if(NOT MLIR_DIR)
    execute_process(COMMAND llvm-config-22 --prefix
      OUTPUT_VARIABLE MOE_LLVM_PREFIX OUTPUT_STRIP_TRAILING_WHITESPACE)
    set(MLIR_DIR ${MOE_LLVM_PREFIX}/lib/cmake/mlir)
    set(LLVM_DIR ${MOE_LLVM_PREFIX}/lib/cmake/llvm)
  endif()
  find_package(MLIR 22.1 REQUIRED CONFIG)
  set(LLVM_EXTERNAL_LIT ${LLVM_TOOLS_BINARY_DIR}/lit)
  list(APPEND CMAKE_MODULE_PATH ${MLIR_CMAKE_DIR} ${LLVM_CMAKE_DIR})
  include(TableGen)
  include(AddLLVM)
  include(AddMLIR)
  include_directories(SYSTEM ${LLVM_INCLUDE_DIRS} ${MLIR_INCLUDE_DIRS})
  add_definitions(${LLVM_DEFINITIONS_LIST})
endmacro()

# Finds the Python that tests run in and whose PyTorch is built against:
# MOE_PYTHON (variable or environment), or that of the repository's .venv, or
# python3.
macro(moe_find_python)
  if(MOE_PYTHON)
    set(Python3_EXECUTABLE ${MOE_PYTHON})
  elseif(DEFINED ENV{MOE_PYTHON})
    set(Python3_EXECUTABLE $ENV{MOE_PYTHON})
  elseif(EXISTS ${CMAKE_SOURCE_DIR}/.venv/bin/python)
    set(Python3_EXECUTABLE ${CMAKE_SOURCE_DIR}/.venv/bin/python)
  endif()
  find_package(Python3 3.11 REQUIRED COMPONENTS Interpreter)
  set(MOE_PYTHON ${Python3_EXECUTABLE})
endmacro()

# Finds the LibTorch of CMAKE_PREFIX_PATH, or else the one that MOE_PYTHON
# carries. Without one MOE_TORCH becomes OFF.
macro(moe_find_torch)
  find_package(Torch QUIET CONFIG)
  if(NOT Torch_FOUND)
    execute_process(
      COMMAND ${MOE_PYTHON} -c
        "import torch.utils as u; print(u.cmake_prefix_path)"
      OUTPUT_VARIABLE MOE_TORCH_PREFIX OUTPUT_STRIP_TRAILING_WHITESPACE
      RESULT_VARIABLE MOE_TORCH_RESULT ERROR_QUIET)
    if(MOE_TORCH_RESULT EQUAL 0)
      find_package(Torch REQUIRED CONFIG PATHS ${MOE_TORCH_PREFIX}
        NO_DEFAULT_PATH)
    else()
      message(WARNING "building without the LibTorch executor, since "
        "${MOE_PYTHON} has no torch: set MOE_PYTHON to a Python that has it")
      set(MOE_TORCH OFF)
    endif()
  endif()
endmacro()
